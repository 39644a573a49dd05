"""Bundles: the author's own modules, by digest. `collect` makes them at the client, `format` is what both sides share."""
