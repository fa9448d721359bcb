"""Statistics over few teachers and over examples: correlations, peak, posterior, bootstrap; tables aligned."""
