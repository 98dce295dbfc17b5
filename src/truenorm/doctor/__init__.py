"""Why a network is bad in eval(), and what mending its statistics would give."""
