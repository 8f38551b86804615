"""
nginx, the thing managed: where it is, what its files say, and the one way they change.

`grammar` reads a text, `documents` the files with what they include, `edits` changes a text,
`layout` finds nginx, `apply` has it test a change and take it over. `names` and `site` make what
the set-up of a domain writes.
"""
