"""All of Ray: joining it, pools of actors, tasks, and the streaming pass that fills a table and survives kills."""
