"""What Alembic runs: the migrations on the connection that `Store.upgrade` hands over, inside its transaction."""

from alembic import context

__all__: list[str] = []

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
