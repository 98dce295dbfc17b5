"""Why a network is bad in eval(), and what repairing its statistics would give."""
