"""Published results: files of others read into what an imported cube holds; no torch, no network."""
