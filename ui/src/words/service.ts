import type { LoadBalancer, ServicePort } from "../model";
import type { Tone } from "./state";
import { took } from "./time";

/** Why a service has no address from us, or how it came by the one it has. */
export interface Standing {
  text: string;
  /** `null` for what is as it should be, and needs no mark. */
  tone: Tone | null;
}

/** What is to be shown beside a service's address; `stale` says that no tunnel is up for it. */
export function standing(service: LoadBalancer, stale: boolean): Standing {
  const { pending } = service;
  if (stale && service.owner.owner === "us") return { text: "left by a tunnel that died", tone: "warn" };
  switch (pending?.pending) {
    case undefined:
      break;
    case "tunnel_down":
      if (service.owner.owner === "other") return { text: `set by ${service.owner.name}`, tone: "off" };
      return { text: "waits for the tunnel", tone: null };
    case "assigning":
      return { text: "on its way", tone: null };
    case "other_class":
      return { text: `other class: ${pending.class}`, tone: "warn" };
    case "someone_elses":
      return { text: `set by ${pending.manager}`, tone: "off" };
    case "metallb":
      return { text: "served by the metallb addon", tone: "off" };
    case "no_cluster_ip":
      return { text: "has no cluster IP", tone: "warn" };
    case "refused":
      return { text: `refused: ${pending.message}`, tone: "bad" };
    case "emptied":
      return { text: "taken away again and again by somebody else", tone: "bad" };
    case "unanswered":
      return { text: `asked again: ${pending.message}`, tone: "warn" };
  }
  if (service.owner.owner === "other") return { text: `set by ${service.owner.name}`, tone: "off" };
  return { text: service.assigned_in ? `in ${took(service.assigned_in)}` : "", tone: null };
}

export function ports(service: LoadBalancer): string {
  return service.ports.map(port).join(", ");
}

function port({ port, protocol }: ServicePort): string {
  return protocol === "TCP" ? `${port}` : `${port}/${protocol}`;
}

/** The usual ports of web pages, the likeliest first. */
const WEB = [443, 80, 8443, 8080];

/** The port that a browser is most likely to be shown something at; `null` where there is none. */
export function webPort(service: LoadBalancer): number | null {
  const open = service.ports.filter((each) => each.protocol === "TCP").map((each) => each.port);
  return WEB.find((each) => open.includes(each)) ?? open[0] ?? null;
}
