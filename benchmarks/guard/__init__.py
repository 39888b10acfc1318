"""`make guard`: fails when the CPU that a task costs got a quarter worse than `baseline.json` says.

`paths` is what runs, `verdict` what is made of it. Nothing here is part of the installed package.
"""
