"""`orderflow doctor`: settings that lose data, stop something or surprise, each with its value, its reason and what to do.

`facts` is what was found, gathered in one place (`kafka_facts`, `postgres_facts`, `files`). A check is a function from facts to findings
(`topics`, `brokers`, `groups`, `tables`, `servers`, `sources`, `times`, `settings`, `clocks`), and knows no server. `codes` is the list
of all that can be found, which docs/doctor.md shows.
"""
