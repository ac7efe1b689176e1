# What metafor says of data sets of metadat: Rscript benchmarks/metafor.R > tests/analysis/metafor.json
suppressMessages({ library(metafor); library(metadat); library(jsonlite) })

table <- function(measure, data, ai, n1i, ci, n2i)
  cbind(data, escalc(measure, ai = data[[ai]], n1i = data[[n1i]], ci = data[[ci]], n2i = data[[n2i]]))
means <- function(measure, data)
  escalc(measure, m1i = m1i, sd1i = sd1i, n1i = n1i, m2i = m2i, sd2i = sd2i, n2i = n2i, data = data)
z <- function(data, r = "ri", n = "ni") cbind(data, escalc("ZCOR", ri = data[[r]], ni = data[[n]]))
own <- function(yi, vi) data.frame(yi = yi, vi = vi)

bcg <- escalc("RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = dat.bcg)
debruin <- escalc("PLO", xi = xi, ni = ni, data = dat.debruin2009)
bonett <- escalc("ABT", ai = ai, mi = mi, ni = ni, data = dat.bonett2010)
dose <- table("OR", dat.viechtbauer2021, "xTi", "nTi", "xCi", "nCi")
weeks <- transform(dat.raudenbush1985, weeks = pmin(weeks, 3))
even <- seq(-1, 1, length.out = 12)

sets <- list(
  "bcg" = list(bcg), "bcg, latitude" = list(bcg, ~ ablat), "bcg, allocation" = list(bcg, ~ alloc),
  "bcg, latitude and year" = list(bcg, ~ ablat + year),
  "raudenbush1985" = list(dat.raudenbush1985), "raudenbush1985, weeks" = list(weeks, ~ weeks),
  "raudenbush1985, setting and tester" = list(dat.raudenbush1985, ~ setting + tester),
  "begg1989" = list(dat.begg1989), "hackshaw1998" = list(dat.hackshaw1998),
  "hackshaw1998, design" = list(dat.hackshaw1998, ~ design),
  "berkey1998, outcome" = list(dat.berkey1998, ~ outcome), "michael2013" = list(dat.michael2013),
  "normand1999, days" = list(means("MD", dat.normand1999)), "gibson2002" = list(means("SMD", dat.gibson2002)),
  "gibson2002, type" = list(means("SMD", dat.gibson2002), ~ factor(type)),
  "lau1992, risk differences" = list(table("RD", dat.lau1992, "ai", "n1i", "ci", "n2i")),
  "nielweise2007" = list(table("OR", dat.nielweise2007, "ai", "n1i", "ci", "n2i")),
  "hine1989" = list(table("OR", dat.hine1989, "ai", "n1i", "ci", "n2i")),
  "graves2010" = list(table("RR", dat.graves2010, "ai", "n1i", "ci", "n2i")),
  "li2007" = list(table("OR", dat.li2007, "ai", "n1i", "ci", "n2i")),
  "laopaiboon2015" = list(table("RR", dat.laopaiboon2015, "ai", "n1i", "ci", "n2i")),
  "collins1985b" = list(table("OR", dat.collins1985b, "pre.xti", "pre.nti", "pre.xci", "pre.nci")),
  "cannon2006" = list(table("OR", dat.cannon2006, "ep1t", "nt", "ep1c", "nc")),
  "dorn2007" = list(table("RR", dat.dorn2007, "x.a", "n.a", "x.p", "n.p")),
  "hart1999" = list(escalc("IRR", x1i = x1i, t1i = t1i, x2i = x2i, t2i = t2i, data = dat.hart1999)),
  "pritz1997" = list(escalc("PLO", xi = xi, ni = ni, data = dat.pritz1997)),
  "debruin2009" = list(debruin), "debruin2009, quality of care" = list(debruin, ~ scq),
  "bonett2010" = list(bonett), "bonett2010, caregivers" = list(bonett, ~ caregivers),
  "viechtbauer2021, dose" = list(dose, ~ dose), "cohen1981" = list(z(dat.cohen1981)),
  "molloy2014" = list(z(dat.molloy2014)), "molloy2014, quality" = list(z(dat.molloy2014), ~ quality + meanage),
  "nakagawa2007" = list(z(dat.nakagawa2007, "Correlation", "SampleSize")),
  "two studies" = list(own(c(.3, .9), c(.1, .02))),
  "homogeneous" = list(own(c(.10, .11, .09, .10, .105), rep(.01, 5))),
  "huge variances" = list(own(3e4 * sin(1:12), 1e7 * (1:12))),
  "tiny variances" = list(own(even^3 * 1e-3, 1e-8 * (1:12))),
  "variances from 1e-6 to 1e2" = list(own(even + sin(1:12), 10^seq(-6, 2, length.out = 12)[c(7, 1:6, 12:8)]))
)

fit <- function(y, v, x, method, test) {
  scale <- median(v)  # metafor stops at absolute differences, so units are chosen for it
  tight <- switch(method, ML = , REML = list(threshold = 1e-13, maxiter = 1e5, stepadj = .5),
                  PM = list(tol = 1e-14, tau2.max = 1e8), list())
  arguments <- list(yi = y / sqrt(scale), vi = v / scale, mods = x, method = method, test = test, control = tight)
  found <- suppressWarnings(do.call(rma, arguments[!sapply(arguments, is.null)]))
  result <- list(tau2 = found$tau2 * scale, i2 = found$I2, h2 = found$H2, p = I(found$pval),
                 estimate = I(as.numeric(found$beta) * sqrt(scale)), standard_error = I(found$se * sqrt(scale)),
                 upper = I(found$ci.ub * sqrt(scale)))
  if (method == "FE") result <- c(result, q = found$QE, q_p = found$QEp)
  if (is.null(x) && length(y) >= 10 && method != "FE") {
    future <- predict(found)
    result$prediction <- c(future$pi.lb, future$pi.ub) * sqrt(scale)
  }
  if (test == "z" && method == "REML") {
    ends <- confint(found, control = list(tol = 1e-14, tau2.max = 1e8, maxiter = 1e5))$random[1, 2:3]
    result$profile <- as.numeric(ends) * scale
  }
  result
}

answers <- lapply(sets, function(set) {
  data <- set[[1]]
  x <- if (length(set) > 1) model.matrix(set[[2]], model.frame(set[[2]], data, na.action = na.pass))
  known <- is.finite(data$yi) & is.finite(data$vi)
  if (!is.null(x)) known <- known & rowSums(is.na(x)) == 0
  y <- signif(as.numeric(data$yi)[known], 7)
  v <- signif(as.numeric(data$vi)[known], 7)
  x <- if (!is.null(x)) unname(x[known, -1, drop = FALSE])
  answer <- list(y = I(y), v = I(v))
  if (!is.null(x)) answer$x <- x
  # The interval says the rest of a test: z for every method, the others for REML.
  pairs <- c(paste(c("FE", "DL", "HE", "ML", "REML", "PM"), "z"), "REML knha", "REML adhoc", "DL knha", "FE adhoc")
  answer$fits <- lapply(setNames(pairs, pairs), function(pair)
    fit(y, v, x, strsplit(pair, " ")[[1]][1], strsplit(pair, " ")[[1]][2]))
  if (is.null(x) && length(y) > 2 && diff(range(v)) > 0) {
    egger <- regtest(y, v, model = "lm")
    rank <- suppressWarnings(ranktest(y, v))
    answer$egger <- c(egger$zval, egger$pval)
    answer$rank <- c(rank$tau, rank$pval)
  }
  answer
})
answers$version <- as.character(packageVersion("metafor"))
cat(toJSON(answers, digits = I(10), auto_unbox = TRUE, na = "null"), "\n")
