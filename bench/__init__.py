"""Our speed beside peers and limits, in one run on one machine: `make bench`. What each row is and how it is measured: docs/performance.md.

stand     a broker and a database of the run's own, a fresh database for each row
dataset   the events: made from a seed, so that every row reads the same and each can be looked for afterwards
processes what is measured, started the way users start it; meter: its CPU and memory
rows      what is measured: ours, peers and limits; consumer, request and outbox rows
verify    row by row, whether everything happened, and once
report    latest.json and the table; plots: the pictures
"""
