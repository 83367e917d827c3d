"""Places where members' words and slots can live, one file each."""
