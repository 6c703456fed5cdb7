"""How steps get onto machines: the commands, the experiment file and three ways to run one plan."""
