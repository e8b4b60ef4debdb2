"""What an Ascend cluster needs before engines start: its ranktable and a check of its device network."""
