"""The page to explore a map: its data, what it asks of the map, the server and the file that needs none."""
