"""Print the README's table of endpoints: ``python -m llamagw.dialects``."""

from llamagw.dialects.routes import table

print(table())
