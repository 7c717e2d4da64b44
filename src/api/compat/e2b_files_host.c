/* What E2B's own control plane asks of that port, and no client does. */
#include "api/compat/e2b.h"

void e2b_port_metrics(struct request *rq) { e2b_reply_later(rq, "metrics on a sandbox's port", "GET /sandboxes/{id}/metrics of the control plane has them"); }
void e2b_port_envs(struct request *rq) { e2b_reply_later(rq, "the environment on a sandbox's port", "run env in the sandbox"); }
void e2b_port_init(struct request *rq) {
    e2b_reply_later(rq, "setting a sandbox up from outside the control plane", "give the environment when it is made");
}
