"""`pymotor proxy`: the Coordinator before engines that are named on the command line, without a Controller."""
