"""The process and the machine it runs on; nothing here is about VAEs."""
