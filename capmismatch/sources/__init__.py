"""Where teachers come from: one small file for each kind of source, each with a function ``load(rest, **options)``.

Sources whose networks have names also have ``describe(rest)``, which tells sizes without loading weights; see
`capmismatch.sources.families.list_teachers`. timm and transformers are imported when they are asked for.
"""
