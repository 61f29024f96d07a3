"""Pages to look at: one HTML file each, with its data inside, that needs no server and no network."""
