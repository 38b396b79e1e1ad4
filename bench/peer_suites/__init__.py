"""``python -m bench peers``: the test suites of other packages, with our functions in the place of theirs."""
