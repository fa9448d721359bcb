"""Where teachers come from: one small file for each kind of source, each with a function ``load(rest, **options)``."""
