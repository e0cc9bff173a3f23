"""The stages as processes: one loop each around the pure logic of the modules beside this folder."""
