"""Learning online from few audited items, so that it can only help: experts, their arbitration, and calibration."""
