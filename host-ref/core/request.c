/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One request: checked, looked up, cut into chunks, and answered.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

/*
 * A request under way.  Its ranges are worked off in order; pieces that need
 * the same system call are collected and go in one.
 */
typedef struct Run {
    PvmemctlCore *core;
    const PvmemctlFunction *function;
    uint64_t code, arg;
    const struct memctl_vmm_range *ranges;
    unsigned nr_ranges;

    /* Where it has got to */
    unsigned range;             /* ranges done */
    uint64_t offset;            /* bytes done of the next */
    uint64_t bytes;             /* in all */
    uint64_t heavy;             /* of them with data moved or made */
    bool tried;                 /* a system call was made */
    uint64_t system;            /* ns in system calls, if that is measured */
    uint64_t granule;           /* what alignment was asked for, 0: none */

    /* Collected; all pieces are held until they are done */
    PvmemctlAction action;
    unsigned nr_pieces;
    uint64_t pieces_bytes;
    struct iovec iov[MEMCTL_VECTOR_MAX];
    PvmemctlRam pieces[MEMCTL_VECTOR_MAX];
} Run;

static uint64_t host_page_size(void)
{
    return sysconf(_SC_PAGESIZE);
}

uint64_t pvmemctl_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static bool is_1_1(const PvmemctlCore *core)
{
    return core->options.minor >= 1;
}

/* Copying to and from the guest */

static bool copy(PvmemctlCore *core, uint64_t gpa, char *buf, uint64_t size,
                 bool write)
{
    PvmemctlRam ram;

    if (gpa + (size - 1) < gpa) {
        return false;
    }
    for (; size; gpa += ram.length, buf += ram.length, size -= ram.length) {
        if (!core->vmm->get_ram(core->opaque, gpa, size, &ram)) {
            return false;
        }
        if (write) {
            memcpy(ram.addr, buf, ram.length);
        } else {
            memcpy(buf, ram.addr, ram.length);
        }
        core->vmm->put_ram(core->opaque, &ram, write ? ram.length : 0);
    }
    return true;
}

bool pvmemctl_copy_from_guest(PvmemctlCore *core, uint64_t gpa, void *buf,
                              uint64_t size)
{
    return copy(core, gpa, buf, size, false);
}

bool pvmemctl_copy_to_guest(PvmemctlCore *core, uint64_t gpa, const void *buf,
                            uint64_t size)
{
    return copy(core, gpa, (char *)buf, size, true);
}

/* Checking */

/*
 * Would the range take a buffer away from the core?  The answer could not be
 * written then, nor another request be read.
 */
static bool protects_buffer(const Run *run,
                            const struct memctl_vmm_range *range)
{
    const PvmemctlCore *core = run->core;

    if (run->code != MEMCTL_MPROTECT_NONE && run->code != MEMCTL_MPROTECT_R) {
        return false;
    }
    for (uint32_t i = 0; i < core->nr_connections; i++) {
        uint64_t first = core->buffers[i];
        uint64_t last = first + sizeof(struct memctl_buf) - 1;

        if (last >= range->addr &&
            first <= range->addr + (range->length - 1)) {
            return true;
        }
    }
    return false;
}

/*
 * The first piece of a range, held.  Nothing is done to a range of which some
 * is not RAM, or some is refused: so if there is more than one piece, all are
 * looked at before.
 */
static int first_piece(Run *run, const struct memctl_vmm_range *range,
                       PvmemctlRam *first, PvmemctlAction *action)
{
    PvmemctlCore *core = run->core;
    uint64_t addr = range->addr, length = range->length;
    PvmemctlAction other;
    PvmemctlRam ram;
    int err;

    if (!length || (addr | length) & (host_page_size() - 1)) {
        run->granule = host_page_size();
        return EINVAL;
    }
    if (addr + length < addr || protects_buffer(run, range) ||
        !core->vmm->get_ram(core->opaque, addr, length, first)) {
        return EINVAL;
    }
    err = pvmemctl_function_plan(&core->options, run->code, first, action,
                                 &run->granule);
    ram.length = first->length;
    while (addr += ram.length, length -= ram.length) {
        if (!core->vmm->get_ram(core->opaque, addr, length, &ram)) {
            err = EINVAL;
            run->granule = 0;
            break;
        }
        if (!err) {
            err = pvmemctl_function_plan(&core->options, run->code, &ram,
                                         &other, &run->granule);
        }
        core->vmm->put_ram(core->opaque, &ram, 0);
    }
    if (err) {
        core->vmm->put_ram(core->opaque, first, 0);
    }
    return err;
}

/* Doing */

static void advance(Run *run, uint64_t bytes)
{
    run->bytes += bytes;
    if (run->action.how == PVMEMCTL_CLEAR ||
        run->function->flags & PVMEMCTL_HEAVY) {
        run->heavy += bytes;
    }
    run->offset += bytes;
    /* A range without a length was refused, it cannot be done */
    while (run->range < run->nr_ranges && run->ranges[run->range].length &&
           run->offset >= run->ranges[run->range].length) {
        run->offset -= run->ranges[run->range].length;
        run->range++;
    }
}

/*
 * Others want this thread, or the guest has waited long enough: stop in
 * between
 */
static bool must_stop(const Run *run)
{
    PvmemctlCore *core = run->core;

    if (atomic_load(&core->state) != PVMEMCTL_STATE_READY) {
        return true;
    }
    return is_1_1(core) &&
           (run->heavy >= PVMEMCTL_HEAVY_MAX ||
            (core->vmm->interrupted && core->vmm->interrupted(core->opaque)));
}

/*
 * May this much be done of what has a limit per second?  A debt is paid first.
 */
static bool within_rate(PvmemctlCore *core, uint64_t bytes)
{
    const int64_t limit = core->options.rate_limit;
    uint64_t now, elapsed;
    int64_t earned;
    bool ok;

    if (!limit) {
        return true;
    }
    pthread_mutex_lock(&core->rate_lock);
    now = pvmemctl_now();
    elapsed = now - core->rate_time;
    if (elapsed > UINT64_C(1000000000)) {
        elapsed = UINT64_C(1000000000);
    }
    earned = (double)limit * elapsed / 1e9;
    /* Less than a byte is earned by the next one who asks */
    if (earned) {
        core->rate_time = now;
        core->rate_credit += earned;
        if (core->rate_credit > limit) {
            core->rate_credit = limit;
        }
    }
    ok = core->rate_credit > 0;
    if (ok) {
        core->rate_credit -= bytes;
    }
    pthread_mutex_unlock(&core->rate_lock);
    return ok;
}

static unsigned effects(const Run *run, const PvmemctlRam *ram)
{
    unsigned flags = run->function->flags;

    if (run->action.how == PVMEMCTL_CLEAR) {
        return PVMEMCTL_POPULATES;
    }
    if (flags & PVMEMCTL_RELEASES || run->code == MEMCTL_ZERO) {
        return flags & PVMEMCTL_CONTENTS ? PVMEMCTL_DISCARDS : 0;
    }
    /* The ledger touches a page before it sets an attribute */
    if (flags & PVMEMCTL_HEAVY ||
        (run->function->kind &&
         !pvmemctl_function_is_default(run->code, run->arg, ram->flags))) {
        return PVMEMCTL_POPULATES;
    }
    return 0;
}

/* Of @ram, which is held, do what @iov says */
static int run_action(Run *run, const PvmemctlRam *ram,
                      const struct iovec *iov, unsigned nr, uint64_t *done)
{
    PvmemctlCore *core = run->core;
    unsigned what = effects(run, ram);
    uint64_t start = 0;
    int err = 0;

    *done = 0;
    if (what && core->vmm->begin) {
        err = core->vmm->begin(core->opaque, what);
        if (err) {
            return err;
        }
    }
    run->tried = true;
    if (core->options.timing) {
        start = pvmemctl_now();
    }
    if (run->function->kind) {
        err = pvmemctl_ledger_apply(core->ledger, core, run->code,
                                    &run->action, ram, iov->iov_base,
                                    iov->iov_len);
        *done = err ? 0 : iov->iov_len;
    } else {
        err = pvmemctl_action_run_vec(&run->action, iov, nr, done);
    }
    if (start) {
        run->system += pvmemctl_now() - start;
    }
    if (what && core->vmm->begin) {
        core->vmm->end(core->opaque, what);
    }
    return err;
}

/* In protocol 1.1 EAGAIN means something else */
static int translate(const Run *run, int err)
{
    return is_1_1(run->core) && err == EAGAIN ? ENOMEM : err;
}

/* What cannot be released can still be cleared */
static bool can_clear(const Run *run, int err)
{
    return run->code == MEMCTL_ZERO && run->action.how != PVMEMCTL_CLEAR &&
           (err == EBUSY || err == EINVAL || err == EOPNOTSUPP);
}

static int run_pieces(Run *run, const PvmemctlRam *ram,
                      const struct iovec *iov, unsigned nr, uint64_t bytes)
{
    const PvmemctlAction release = run->action;
    uint64_t done;
    int err = 0;

    if (run->function->flags & PVMEMCTL_RATED &&
        !within_rate(run->core, bytes)) {
        return EBUSY;
    }
    while (nr && !err) {
        run->action = release;
        err = run_action(run, ram, iov, nr, &done);
        advance(run, done);
        for (; nr && done >= iov->iov_len; iov++, nr--) {
            done -= iov->iov_len;
        }
        /* Only the piece that cannot be released */
        if (err && can_clear(run, err)) {
            run->action = (PvmemctlAction) { .how = PVMEMCTL_CLEAR };
            err = run_action(run, ram, iov++, 1, &done);
            advance(run, done);
            nr--;
        }
    }
    return err ? translate(run, err) : 0;
}

/* Let go of what was collected; it may have changed even if a call failed */
static void put_pieces(Run *run)
{
    bool changes = run->function->flags & PVMEMCTL_CONTENTS && run->tried;

    for (unsigned i = 0; i < run->nr_pieces; i++) {
        PvmemctlRam *ram = &run->pieces[i];

        run->core->vmm->put_ram(run->core->opaque, ram,
                                changes ? ram->length : 0);
    }
    run->nr_pieces = 0;
    run->pieces_bytes = 0;
}

static int flush(Run *run)
{
    int err = 0;

    if (run->nr_pieces) {
        err = run_pieces(run, run->pieces, run->iov, run->nr_pieces,
                         run->pieces_bytes);
        put_pieces(run);
    }
    return err;
}

/* A piece that is longer than a chunk, or leaves an attribute: not collected */
static int run_alone(Run *run, PvmemctlRam *ram, bool last)
{
    const uint64_t chunk = ram->page_size > PVMEMCTL_CHUNK ? ram->page_size
                                                           : PVMEMCTL_CHUNK;
    const PvmemctlAction action = run->action;
    int err = 0;

    run->pieces[0] = *ram;
    run->nr_pieces = 1;
    for (uint64_t at = 0; !err && at < ram->length;) {
        struct iovec iov = {
            .iov_base = (char *)ram->addr + at,
            .iov_len = ram->length - at < chunk ? ram->length - at : chunk,
        };

        run->action = action;
        err = run_pieces(run, ram, &iov, 1, iov.iov_len);
        at += iov.iov_len;
        if (!err && (at < ram->length || !last) && must_stop(run)) {
            err = EAGAIN;
        }
    }
    put_pieces(run);
    return err;
}

static bool same_action(const PvmemctlAction *a, const PvmemctlAction *b)
{
    return a->how == b->how && a->value == b->value;
}

/* Takes over the reference on @ram */
static int add_piece(Run *run, PvmemctlRam *ram, PvmemctlAction *action,
                     bool last)
{
    int err = 0;

    action->arg = run->arg;
    if (run->nr_pieces &&
        (!same_action(action, &run->action) ||
         run->nr_pieces == MEMCTL_VECTOR_MAX || run->function->kind ||
         run->pieces_bytes + ram->length > PVMEMCTL_CHUNK)) {
        err = flush(run);
        if (!err && must_stop(run)) {
            err = EAGAIN;
        }
        if (err) {
            run->core->vmm->put_ram(run->core->opaque, ram, 0);
            return err;
        }
    }
    run->action = *action;
    if (run->function->kind || ram->length > PVMEMCTL_CHUNK) {
        return run_alone(run, ram, last);
    }
    run->iov[run->nr_pieces].iov_base = ram->addr;
    run->iov[run->nr_pieces].iov_len = ram->length;
    run->pieces[run->nr_pieces++] = *ram;
    run->pieces_bytes += ram->length;
    return 0;
}

static bool is_turn(uint32_t every, uint32_t turn)
{
    return every && turn % every == 0;
}

/*
 * Be the host that a test wants, which does not do this range though it could.
 * Returns true if so; *@err is what it says then.
 */
static bool is_untrue(Run *run, const struct memctl_vmm_range *range,
                      const PvmemctlAction *action, int *err)
{
    PvmemctlCore *core = run->core;
    const PvmemctlOptions *options = &core->options;
    uint32_t turn;

    if (!(run->function->flags & PVMEMCTL_CONTENTS) ||
        (!options->refuse && !options->lie)) {
        return false;
    }
    turn = atomic_fetch_add(&core->turn, 1) + 1;
    if (is_turn(options->refuse, turn)) {
        *err = EPERM;
        return true;
    }
    if (!is_turn(options->lie, turn)) {
        return false;
    }
    /* In order: behind what was collected */
    *err = flush(run);
    if (!*err) {
        run->action = *action;
        run->tried = true;
        advance(run, range->length);
    }
    return true;
}

/* What is left of a range behind its first piece; looked up anew */
static int run_range(Run *run, const struct memctl_vmm_range *range, bool last)
{
    PvmemctlCore *core = run->core;
    uint64_t addr = range->addr, length = range->length, piece;
    PvmemctlAction action;
    PvmemctlRam ram;
    int err;

    err = first_piece(run, range, &ram, &action);
    if (!err && is_untrue(run, range, &action, &err)) {
        core->vmm->put_ram(core->opaque, &ram, 0);
        return err;
    }
    while (!err) {
        piece = ram.length;
        err = add_piece(run, &ram, &action, last && piece == length);
        addr += piece;
        length -= piece;
        if (err || !length) {
            break;
        }
        /* It may have been unplugged since */
        if (!core->vmm->get_ram(core->opaque, addr, length, &ram)) {
            err = EINVAL;
            break;
        }
        err = pvmemctl_function_plan(&core->options, run->code, &ram, &action,
                                     &run->granule);
        if (err) {
            core->vmm->put_ram(core->opaque, &ram, 0);
        }
    }
    return err;
}

/* Is there room for so much more in this doorbell? */
static bool fits(const Run *run, uint64_t *sum, uint64_t length)
{
    if (!is_1_1(run->core)) {
        return true;
    }
    if (length > PVMEMCTL_DOORBELL_MAX - *sum) {
        return false;
    }
    *sum += length;
    return true;
}

static int run_ranges(Run *run)
{
    uint64_t sum = 0;
    int err = 0, late;

    for (unsigned i = 0; !err && i < run->nr_ranges; i++) {
        const struct memctl_vmm_range *range = &run->ranges[i];

        err = fits(run, &sum, range->length)
              ? run_range(run, range, i == run->nr_ranges - 1) : E2BIG;
    }
    /* What was collected comes before what failed */
    late = flush(run);
    return late ? late : err;
}

/* Answering */

/* The host refuses: the function code says that it tried nothing */
static struct memctl_vmm_ret refuse(const struct memctl_vmm_call *call, int err)
{
    return (struct memctl_vmm_ret) {
        .ret_errno = err,
        .ret_code = (uint32_t)call->func_code,
    };
}

static struct memctl_vmm_ret answer(const Run *run,
                                    const struct memctl_vmm_call *call, int err)
{
    struct memctl_vmm_ret ret = { .ret_errno = err };
    bool vector = call->func_code == MEMCTL_VECTOR;

    if (err && !run->tried) {
        ret.ret_code = (uint32_t)call->func_code;
    }
    if (!is_1_1(run->core)) {
        return ret;
    }
    if (vector) {
        ret.ret_value = run->range;
        ret.arg1 = run->offset;
    } else if (err && run->tried) {
        ret.ret_value = run->bytes;
    } else if (err == E2BIG) {
        ret.ret_value = PVMEMCTL_DOORBELL_MAX;
    } else if (err == EINVAL) {
        ret.ret_value = run->granule;
    }
    return ret;
}

/* The bytes of a VECTOR count for what was done to them, its time for itself */
static void count(const Run *run, uint64_t called)
{
    PvmemctlStats *stats = run->core->stats;

    atomic_fetch_add_explicit(&stats[run->code].bytes, run->bytes,
                              memory_order_relaxed);
    if (run->system) {
        atomic_fetch_add_explicit(&stats[called].system, run->system,
                                  memory_order_relaxed);
    }
}

static struct memctl_vmm_ret run_request(PvmemctlCore *core, uint64_t code,
                                         const struct memctl_vmm_range *ranges,
                                         unsigned nr_ranges,
                                         const struct memctl_vmm_call *call)
{
    Run run PVMEMCTL_UNINITIALIZED;
    int err;

    run.core = core;
    run.function = pvmemctl_function(code);
    run.code = code;
    run.arg = call->arg;
    run.ranges = ranges;
    run.nr_ranges = nr_ranges;
    run.range = 0;
    run.offset = 0;
    run.bytes = 0;
    run.heavy = 0;
    run.tried = false;
    run.system = 0;
    run.granule = 0;
    run.nr_pieces = 0;
    run.pieces_bytes = 0;

    err = run_ranges(&run);
    count(&run, call->func_code);
    return answer(&run, call, err);
}

static struct memctl_vmm_ret run_vector(PvmemctlCore *core,
                                        const struct memctl_vmm_call *call)
{
    struct memctl_vmm_range table[MEMCTL_VECTOR_MAX] PVMEMCTL_UNINITIALIZED;
    const PvmemctlFunction *f = pvmemctl_function(call->arg);

    if (!f || call->arg == MEMCTL_SET_VMA_ANON_NAME) {
        return refuse(call, EINVAL);
    }
    if (!(core->options.allowed & PVMEMCTL_BIT(call->arg))) {
        return refuse(call, EPERM);
    }
    if (call->length > MEMCTL_VECTOR_MAX) {
        return refuse(call, E2BIG);
    }
    /* Copied once: the guest may write it all the time */
    if (!call->length || call->addr % sizeof(table[0]) ||
        call->addr + call->length * sizeof(table[0]) < call->addr ||
        !pvmemctl_copy_from_guest(core, call->addr, table,
                                  call->length * sizeof(table[0]))) {
        return refuse(call, EINVAL);
    }
    for (unsigned i = 0; i < call->length; i++) {
        table[i].addr = le64toh(table[i].addr);
        table[i].length = le64toh(table[i].length);
    }
    return run_request(core, call->arg, table, call->length, call);
}

typedef struct Query {
    const PvmemctlOptions *options;
    uint64_t works;
    uint64_t granule;
} Query;

static void query_piece(void *arg, const PvmemctlRam *ram)
{
    Query *query = arg;

    for (unsigned code = 0; code < PVMEMCTL_NR_CODES; code++) {
        if (pvmemctl_function(code) &&
            !pvmemctl_function_works(query->options, code, ram)) {
            query->works &= ~PVMEMCTL_BIT(code);
        }
    }
    if (ram->page_size > query->granule) {
        query->granule = ram->page_size;
    }
}

static struct memctl_vmm_ret run_query(PvmemctlCore *core,
                                       const struct memctl_vmm_call *call)
{
    uint64_t addr = call->addr, length = call->arg;
    Query query = { .options = &core->options };
    PvmemctlRam ram;

    for (unsigned code = 0; code < PVMEMCTL_NR_CODES; code++) {
        if (pvmemctl_function_name(code)) {
            query.works |= core->options.allowed & PVMEMCTL_BIT(code);
        }
    }
    if (!length) {
        core->vmm->each_ram(core->opaque, query_piece, &query);
    } else if (addr + (length - 1) < addr) {
        return refuse(call, EINVAL);
    }
    for (; length; addr += ram.length, length -= ram.length) {
        if (!core->vmm->get_ram(core->opaque, addr, length, &ram)) {
            return refuse(call, EINVAL);
        }
        query_piece(&query, &ram);
        core->vmm->put_ram(core->opaque, &ram, 0);
    }
    return (struct memctl_vmm_ret) {
        .ret_value = query.works,
        .arg0 = MEMCTL_VECTOR_MAX,
        .arg1 = query.granule,
    };
}

static bool is_known(const PvmemctlCore *core, uint64_t code)
{
    return pvmemctl_function_name(code) &&
           (code <= MEMCTL_UNMERGEABLE || is_1_1(core));
}

struct memctl_vmm_ret pvmemctl_request(PvmemctlCore *core,
                                       const struct memctl_vmm_call *call)
{
    struct memctl_vmm_range range = { call->addr, call->length };

    if (!is_known(core, call->func_code)) {
        return refuse(call, EOPNOTSUPP);
    }
    if (!(core->options.allowed & PVMEMCTL_BIT(call->func_code))) {
        return refuse(call, EPERM);
    }
    switch (call->func_code) {
    case MEMCTL_INFO:
        return (struct memctl_vmm_ret) {
            .ret_value = host_page_size(),
            .arg0 = MEMCTL_PROTOCOL_MAJOR,
            .arg1 = core->options.minor,
        };
    case MEMCTL_QUERY:
        return run_query(core, call);
    case MEMCTL_VECTOR:
        return run_vector(core, call);
    default:
        return run_request(core, call->func_code, &range, 1, call);
    }
}
