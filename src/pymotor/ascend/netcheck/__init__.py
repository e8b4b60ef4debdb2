"""`pymotor netcheck`: are the accelerators' network ports, their settings and the ways between the nodes in order?

Facts are collected on each node (`agent` runs the tools there, `nodes` speaks with it, `survey` says what to run) and
kept as the tools printed them (`readings`); verdicts are a pure function of these readings (`judge`).
"""
