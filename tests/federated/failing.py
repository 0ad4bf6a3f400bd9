"""A Flower app whose server fails."""

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client_app = ClientApp()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    raise ValueError("the server was told to fail")
