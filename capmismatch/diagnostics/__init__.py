"""A bank in, tidy tables out: probes, ranks, restored variance, dark knowledge."""
