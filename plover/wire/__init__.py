"""The wire: what client, daemon, worker and zygote say to each other, and how it is written in bytes."""
