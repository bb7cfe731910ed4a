"""What training did, and the plots of it.

plots.py   one style for all figures: readable in print, in grey and for the colour-blind
statistics.py  what a handful of seeds can say
"""
