"""How fast the service is, beside the least that its work can cost; not tests, and nothing that the service needs."""

PROJECT = "mathematricks-trader"
ORDERS_TOPIC = "trading-orders"
COMMANDS_TOPIC = "order-commands"
CONFIRMATIONS_TOPIC = "execution-confirmations"
