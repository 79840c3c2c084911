"""Models, devices, fleets, plans, and what one operation costs."""
