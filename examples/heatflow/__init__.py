"""A package of the author's own: nothing of it is installed anywhere, and no line of it knows of Plover."""
