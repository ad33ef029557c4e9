"""The type checker that the tests lay over every signature of drrgen.

beartype alone refuses an int where a float is hinted, which Python itself allows and an honest
caller writes (PEP 484, the numeric tower).
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
