"""The client's side of a call: the table of what is pending, the connection, futures, and mapping."""
