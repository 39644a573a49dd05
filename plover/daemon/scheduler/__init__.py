"""The scheduler: which call runs where and when. Pure: events in, commands out; no sockets, threads or clocks."""
