"""Where teachers come from: one module for each kind of source, with a function ``load(address, **options)``.

Sources whose networks have names also have ``describe(address)``, which gives sizes without loading weights; see
`capmismatch.list_teachers`. timm and transformers are imported only when a teacher of theirs is asked for.
"""
