"""What is minimised: functions of a bound model, in nats per image."""
