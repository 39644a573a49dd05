"""What runs inside a nest: the zygote, the workers forked from it, and their devices. Nothing imports it but itself."""
