"""Examples, and what teachers said of them: data sets, views, the logit bank."""
