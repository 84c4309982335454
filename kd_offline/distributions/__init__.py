"""What an action is: distributions over the actions of agents."""
