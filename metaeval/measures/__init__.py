"""Generalization measures: numbers about one trained model on one data set."""
