"""A small reproduction of AgenticRec (arXiv 2603.21613): a tool-using ranking agent trained by RL.

The rooms, each importing only from those before it: errors, profiles, runs, data, recommenders, tools,
policy, agent, rewards, evaluation, training, report, cli. Importing the package itself loads none of them.
"""

__version__ = "0.1.0"
