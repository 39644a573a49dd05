"""The daemon: the process on a GPU host that accepts calls, schedules them and owns the workers."""
