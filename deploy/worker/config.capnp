# An Email Worker behind a hook of Millrace (docs/hooks.md): MILLRACE_SECRET=whsec_... workerd serve config.capnp
#
# worker.js is the worker, adapter.js what asks it. A reverse proxy in front speaks TLS, unless the node lists the
# address.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "hook", worker = .hook)],
  sockets = [(name = "hook", address = "127.0.0.1:8787", http = (), service = "hook")],
);

const hook :Workerd.Worker = (
  compatibilityDate = "2026-11-01",
  modules = [
    (name = "adapter.js", esModule = embed "adapter.js"),
    (name = "worker.js", esModule = embed "worker.js"),
  ],
  bindings = [
    (name = "MILLRACE_SECRET", fromEnvironment = "MILLRACE_SECRET"),  # read by the adapter, and not in the worker's env
    # What the worker reads from its env: (name = "OWNER", text = "alice@mailbox.example"),
  ],
);
