"""What `plover.serialize` is made of: reducers, captures, large buffers, and the search for what cannot travel."""
