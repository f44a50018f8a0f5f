import type { Activity } from "../model";
import { standing } from "./service";

/** What happened, in a few words. */
export function told({ change }: Activity): string {
  switch (change.change) {
    case "gone":
      return "The profile is gone";
    case "routes_held":
      return `Route for ${kind(change.group)}: ${list(change.routes.map((route) => route.destination))}`;
    case "routes_gone":
      return `Route for ${kind(change.group)} removed`;
    case "left_out":
      return `No route for ${kind(change.group)}: ${change.reason}`;
    case "overlapped":
      return `${change.conflict.owner} came to overlap the route for ${kind(change.group)}`;
    case "assigned":
      return `${name(change.service.key)} got ${change.service.ingress.join(", ")}`;
    case "withdrawn":
      return `${name(change.service)} gave its address back`;
    case "pending":
      return `${name(change.service)}: ${why(change.reason)}`;
    case "tunnel":
      return tunnel(change.tunnel);
  }
}

type Of<Name extends Activity["change"]["change"]> = Extract<Activity["change"], { change: Name }>;

function tunnel(tunnel: Of<"tunnel">["tunnel"]): string {
  switch (tunnel.state) {
    case "disconnected":
      return "Tunnel stopped";
    case "connecting":
      return "Tunnel is connecting";
    case "connected":
      return "Tunnel connected";
    case "disconnecting":
      return "Tunnel is stopping";
    case "blocked":
      return tunnel.conflicts[0] ? `Blocked by ${tunnel.conflicts[0].owner}` : "Blocked";
    case "failed":
      return `Failed: ${tunnel.message}`;
    case "waiting":
      switch (tunnel.for) {
        case "cluster":
          return "Waiting for the cluster";
        case "consent":
          return "Waiting for your consent";
        case "dialog":
          return "Asking for your consent";
        case "lock":
          return "Waiting for minikube tunnel to end";
      }
  }
}

function why(reason: Of<"pending">["reason"]): string {
  const nobody = { owner: "nobody" } as const;
  const bare = { key: { namespace: "", name: "" }, ports: [], cluster_ips: [], ingress: [], owner: nobody };
  return standing({ ...bare, pending: reason }, false).text;
}

/** What a group of routes leads to. */
export function kind(group: Of<"routes_held">["group"]): string {
  switch (group.kind) {
    case "services":
      return "services";
    case "pods":
      return `pods of ${group.node}`;
    case "load_balancers":
      return "LoadBalancer addresses";
  }
}

function name(key: { namespace: string; name: string }): string {
  return `${key.namespace}/${key.name}`;
}

function list(items: string[]): string {
  const [first = "none"] = items;
  return items.length > 1 ? `${first} and ${items.length - 1} more` : first;
}
