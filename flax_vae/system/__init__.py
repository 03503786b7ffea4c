"""The process and the machine it runs on: nothing here knows anything about VAEs."""
