/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QTest of the pvmemctl device: what the guest has set, and its connections, go
 * with it to another QEMU or into a snapshot.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qlist.h"
#include "pvmemctl-util.h"

#define SLOW        (256 * KiB)     /* bytes a second */
#define FAST        (4 * GiB)
#define BALLAST     (40 * MiB)      /* takes time to migrate, behind DATA */

typedef struct Pair {
    Machine m;
    Device d;                       /* in the source */
    QTestState *to;
    Device there;
    char *dir;
    char *uri;
    char *log;                      /* what the destination says */
} Pair;

static Pair pair_start_args(const char *props, const char *to_props,
                            const char *args, const char *to_args)
{
    g_autofree char *to_all = NULL;
    Pair p = { .dir = g_dir_make_tmp("pvmemctl-test-XXXXXX", NULL) };

    g_assert_nonnull(p.dir);
    p.uri = g_strdup_printf("unix:%s/socket", p.dir);
    p.log = g_strdup_printf("%s/log", p.dir);
    p.d = device_start_args(&p.m, props, args);
    to_all = g_strdup_printf("-device pvmemctl,addr=04.0%s %s -incoming %s"
                             " 2>%s", to_props, to_args, p.uri, p.log);
    p.to = qemu_start("q35", to_all);
    return p;
}

static Pair pair_start(const char *props, const char *to_props)
{
    return pair_start_args(props, to_props, "", "");
}

static void pair_stop(Pair *p)
{
    g_autofree char *path = g_strdup_printf("%s/socket", p->dir);

    if (p->to) {
        qtest_quit(p->to);
    }
    device_stop(&p->m, &p->d);
    unlink(path);
    unlink(p->log);
    g_assert_cmpint(rmdir(p->dir), ==, 0);
    g_free(p->dir);
    g_free(p->uri);
    g_free(p->log);
}

static void set_bandwidth(QTestState *qts, uint64_t bytes)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters',"
                             " 'arguments': { 'max-bandwidth': %" PRIu64
                             ", 'downtime-limit': 1 } }", bytes);
}

static void migrate(Pair *p, const char *uri)
{
    qtest_qmp_assert_success(p->m.qts, "{ 'execute': 'migrate', 'arguments':"
                             " { 'uri': %s } }", uri);
}

static char *migration_status(QTestState *qts)
{
    QDict *info = query(qts, "query-migrate");
    char *status = g_strdup(qdict_haskey(info, "status") ?
                            qdict_get_str(info, "status") : "none");

    qobject_unref(info);
    return status;
}

static bool is_over(const char *status)
{
    return !strcmp(status, "completed") || !strcmp(status, "failed") ||
           !strcmp(status, "cancelled");
}

static bool is_lifted(QTestState *qts)
{
    QDict *info = query_pvmemctl(qts);
    bool lifted = qdict_get_bool(info, "protections-lifted");

    qobject_unref(info);
    return lifted;
}

/* When that is the end, the source has tidied up too */
static void wait_status(QTestState *qts, const char *want)
{
    g_autofree char *status = migration_status(qts);

    while (strcmp(status, want)) {
        g_assert_false(is_over(status));
        g_usleep(5000);
        g_free(status);
        status = migration_status(qts);
    }
    while (is_over(status) && is_lifted(qts)) {
        g_usleep(5000);
    }
}

/* All of it; then the guest goes on at the destination */
static void finish(Pair *p)
{
    set_bandwidth(p->m.qts, FAST);
    wait_status(p->m.qts, "completed");
    qtest_qmp_eventwait(p->to, "RESUME");
    p->there = p->d;
    p->there.qts = p->to;
}

static void migrate_all(Pair *p)
{
    migrate(p, p->uri);
    finish(p);
}

static char *log_of(Pair *p)
{
    char *text = NULL;

    g_assert_true(g_file_get_contents(p->log, &text, NULL, NULL));
    return text;
}

/* A bit of everything, in few ranges and small */
static void set_attributes(Device *d)
{
    fill(d, DATA, MiB);
    ask_ok(d, MEMCTL_DONTDUMP, DATA + 2 * PAGE, 8 * PAGE);
    ask_ok(d, MEMCTL_MLOCK, DATA + 20 * PAGE, 4 * PAGE);
    if (host_has_ksm()) {
        ask_ok(d, MEMCTL_UNMERGEABLE, DATA + 40 * PAGE, 4 * PAGE);
    }
    if (host_has_thp()) {
        ask_ok(d, MEMCTL_NOHUGEPAGE, DATA + 60 * PAGE, 4 * PAGE);
    }
    ask_arg(d, 0, MEMCTL_SET_VMA_ANON_NAME, DATA + 80 * PAGE, PAGE, 12);
    ask_ok(d, MEMCTL_MPROTECT_R, DATA + 6 * PAGE, 10 * PAGE);
    ask_ok(d, MEMCTL_MPROTECT_NONE, DATA, 4 * PAGE);
}

static void arrives(const char *props, unsigned minor)
{
    Pair p = pair_start(props, props);
    g_autofree char *set = NULL, *there = NULL, *here = NULL, *fresh = NULL;
    g_autofree char *log = NULL;
    unsigned nr;

    fresh = host_attributes(p.to, 0, RAM_SIZE);
    handshake(&p.d, 3);
    if (minor) {
        set_attributes(&p.d);
    } else {
        fill(&p.d, DATA, MiB);
        ask_ok(&p.d, MEMCTL_DONTDUMP, DATA + 2 * PAGE, 8 * PAGE);
        ask_ok(&p.d, MEMCTL_MPROTECT_NONE, DATA, 4 * PAGE);
    }
    nr = query_ledger(p.m.qts);
    set = host_attributes(p.m.qts, 0, RAM_SIZE);
    migrate_all(&p);

    there = host_attributes(p.to, 0, RAM_SIZE);
    g_assert_cmpstr(there, ==, set);
    g_assert_cmpuint(query_ledger(p.to), ==, nr);
    g_assert_true(host_is_filled(p.to, DATA, MiB, 0xaa));
    log = log_of(&p);
    g_assert_null(strstr(log, "pvmemctl"));
    /* Here, nothing but the copy has been done to it */
    here = host_attributes(p.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(here, ==, set);
    g_assert_cmpuint(query_number(p.m.qts, "guard-hits"), ==, 0);
    g_assert_cmpuint(query_number(p.to, "guard-hits"), ==, 0);

    /* The connections are the old ones */
    for (int i = 0; i < 3; i++) {
        assert_info(&p.there, i, minor);
    }
    ask_ok(&p.there, MEMCTL_MPROTECT_RW, DATA, MiB);
    g_assert_true(is_filled(&p.there, DATA, MiB, 0xaa));
    ask_ok(&p.there, MEMCTL_DONTNEED, DATA + 100 * PAGE, PAGE);
    g_assert_true(is_filled(&p.there, DATA + 100 * PAGE, PAGE, 0));

    /* And what was brought along is undone like the rest */
    if (minor) {
        command(&p.there, MEMCTL_CMD_RESET);
    } else {
        qtest_system_reset(p.to);
    }
    g_free(there);
    there = host_attributes(p.to, 0, RAM_SIZE);
    g_assert_cmpstr(there, ==, fresh);
    pair_stop(&p);
}

static void test_ledger(void)
{
    arrives(",allow=all", 1);
}

static void test_1_0(void)
{
    arrives(",allow=all,x-protocol=1.0", 0);
}

/* The handshake was not over, or had not begun */
static void test_states(void)
{
    for (int i = 0; i < 2; i++) {
        Pair p = pair_start("", "");

        if (i) {
            command(&p.d, MEMCTL_CMD_RESET);
            register_buffer(&p.d, BUFFER(0));
        }
        migrate_all(&p);
        if (i) {
            g_assert_cmphex(read_answer(&p.there), ==, MEMCTL_ANSWER_ACK);
            g_assert_cmphex(register_buffer(&p.there, BUFFER(1)), ==,
                            MEMCTL_ANSWER_ACK);
            g_assert_cmphex(qtest_readl(p.to, p.there.bar), ==, CONNECTION(1));
            command(&p.there, MEMCTL_CMD_READY);
            assert_info_works(&p.there, 0);
        } else {
            g_assert_cmphex(read_answer(&p.there), ==, MEMCTL_ANSWER_ERROR);
            g_assert_cmphex(register_buffer(&p.there, BUFFER(1)), ==,
                            MEMCTL_ANSWER_ERROR);
        }
        pair_stop(&p);
    }
}

static uint64_t pages_sent(QTestState *qts)
{
    QDict *info = query(qts, "query-migrate");
    uint64_t nr = 0;

    if (qdict_haskey(info, "ram")) {
        nr = qdict_get_int(qdict_get_qdict(info, "ram"), "normal");
    }
    qobject_unref(info);
    return nr;
}

/* While it copies, protections are off, and discards count as writes */
static void test_precopy(void)
{
    Pair p = pair_start(",allow=all", ",allow=all");
    g_autofree char *set = NULL, *there = NULL;

    handshake(&p.d, 1);
    set_attributes(&p.d);
    set = host_attributes(p.m.qts, 0, RAM_SIZE);
    fill(&p.d, BALLAST, 4 * MiB);
    set_bandwidth(p.m.qts, SLOW);
    migrate(&p, p.uri);
    wait_status(p.m.qts, "active");

    g_assert_true(host_is_writable(p.m.qts, DATA, MiB));
    ask_fails(&p.d, MEMCTL_MPROTECT_NONE, DATA + 200 * PAGE, PAGE, EBUSY);
    ask_fails(&p.d, MEMCTL_MPROTECT_R, DATA + 200 * PAGE, PAGE, EBUSY);
    g_assert_true(host_is_writable(p.m.qts, DATA + 200 * PAGE, PAGE));
    /* Other attributes can be set, protections can be undone */
    ask_ok(&p.d, MEMCTL_DONTDUMP, DATA + 200 * PAGE, PAGE);
    ask_ok(&p.d, MEMCTL_MPROTECT_RW, DATA + 2 * PAGE, 2 * PAGE);

    /* All of DATA and a part of the ballast is there */
    set_bandwidth(p.m.qts, 16 * SLOW);
    while (pages_sent(p.m.qts) < MiB / PAGE + 64) {
        g_usleep(5000);
    }
    set_bandwidth(p.m.qts, SLOW);
    ask_ok(&p.d, MEMCTL_DONTNEED, DATA + 100 * PAGE, 8 * PAGE);
    ask_ok(&p.d, MEMCTL_ZERO, DATA + 120 * PAGE, 8 * PAGE);
    finish(&p);

    g_assert_true(is_filled(&p.there, DATA + 90 * PAGE, 10 * PAGE, 0xaa));
    g_assert_true(is_filled(&p.there, DATA + 100 * PAGE, 8 * PAGE, 0));
    g_assert_true(is_filled(&p.there, DATA + 108 * PAGE, 12 * PAGE, 0xaa));
    g_assert_true(is_filled(&p.there, DATA + 120 * PAGE, 8 * PAGE, 0));
    g_assert_true(host_is_protected(p.to, DATA, 2 * PAGE));
    g_assert_true(host_is_writable(p.to, DATA + 2 * PAGE, 2 * PAGE));
    g_assert_true(host_has_flag(p.to, DATA + 200 * PAGE, PAGE, "dd"));
    pair_stop(&p);
}

/* The guest stays, and so does all that it has set */
static void test_cancelled(void)
{
    Pair p = pair_start(",allow=all", ",allow=all");
    g_autofree char *set = NULL, *after = NULL;

    handshake(&p.d, 1);
    set_attributes(&p.d);
    fill(&p.d, BALLAST, 4 * MiB);
    set = host_attributes(p.m.qts, 0, RAM_SIZE);
    set_bandwidth(p.m.qts, SLOW);
    migrate(&p, p.uri);
    wait_status(p.m.qts, "active");
    g_assert_true(host_is_writable(p.m.qts, DATA, MiB));
    qtest_set_expected_status(p.to, EXIT_FAILURE);
    qtest_qmp_assert_success(p.m.qts, "{ 'execute': 'migrate_cancel' }");
    wait_status(p.m.qts, "cancelled");
    qtest_wait_qemu(p.to);
    qtest_quit(p.to);
    p.to = NULL;

    after = host_attributes(p.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, set);
    g_assert_true(host_is_filled(p.m.qts, DATA, MiB, 0xaa));
    assert_info_works(&p.d, 0);
    ask_ok(&p.d, MEMCTL_MPROTECT_NONE, DATA + 200 * PAGE, PAGE);
    g_assert_true(host_is_protected(p.m.qts, DATA + 200 * PAGE, PAGE));
    ask_ok(&p.d, MEMCTL_MPROTECT_RW, DATA + 200 * PAGE, PAGE);

    /* Nobody there */
    migrate(&p, "exec:true");
    wait_status(p.m.qts, "failed");
    g_free(after);
    after = host_attributes(p.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, set);
    migrate(&p, "unix:/nowhere");
    wait_status(p.m.qts, "failed");
    g_free(after);
    after = host_attributes(p.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, set);
    qobject_unref(qtest_qmp_assert_failure_ref(p.m.qts,
        "{ 'execute': 'migrate', 'arguments': { 'uri': 'nonsense' } }"));
    ask_ok(&p.d, MEMCTL_MPROTECT_NONE, DATA + 200 * PAGE, PAGE);
    g_assert_cmpuint(query_number(p.m.qts, "guard-hits"), ==, 0);
    pair_stop(&p);
}

/* Not all can be restored: said once, and the guest goes on */
static void arrives_in_part(const char *props, const char *to_props,
                            unsigned nr, int code)
{
    Pair p = pair_start(props, to_props);
    g_autofree char *log = NULL;
    unsigned kept;

    handshake(&p.d, 1);
    for (unsigned i = 0; i < nr; i++) {
        ask_ok(&p.d, code, DATA + 2 * i * PAGE, PAGE);
    }
    ask_ok(&p.d, MEMCTL_MPROTECT_NONE, BALLAST, PAGE);
    migrate_all(&p);
    kept = query_ledger(p.to);
    g_assert_cmpuint(kept, <, nr + 1);
    g_assert_cmpuint(kept, >, 0);
    log = log_of(&p);
    g_assert_nonnull(strstr(log, "memory attributes could not be restored"));
    assert_info_works(&p.there, 0);
    g_assert_true(is_running(p.to));
    pair_stop(&p);
}

static void test_not_allowed(void)
{
    arrives_in_part("", ",allow=mprotect-none:mprotect-rw", 4,
                    MEMCTL_DONTDUMP);
}

static void test_too_many(void)
{
    arrives_in_part(",max-ranges=1024", ",max-ranges=512", 300,
                    MEMCTL_MPROTECT_NONE);
}

static void test_too_much_locked(void)
{
    arrives_in_part(",allow=all,max-locked=64K", ",allow=all,max-locked=16K",
                    8, MEMCTL_MLOCK);
}

/* What the destination has as its default is nothing to restore */
static void test_other_defaults(void)
{
    Pair p = pair_start_args("", "", "", "-machine mem-merge=off,"
                             "dump-guest-core=off");
    g_autofree char *fresh = NULL, *there = NULL, *log = NULL;

    if (!host_has_ksm()) {
        g_test_skip("no KSM");
        pair_stop(&p);
        return;
    }
    fresh = host_attributes(p.to, 0, RAM_SIZE);
    handshake(&p.d, 1);
    ask_ok(&p.d, MEMCTL_UNMERGEABLE, DATA, PAGE);
    ask_ok(&p.d, MEMCTL_DONTDUMP, DATA + PAGE, PAGE);
    migrate_all(&p);
    there = host_attributes(p.to, 0, RAM_SIZE);
    g_assert_cmpstr(there, ==, fresh);
    g_assert_cmpuint(query_ledger(p.to), ==, 0);
    log = log_of(&p);
    g_assert_null(strstr(log, "pvmemctl"));
    assert_info_works(&p.there, 0);
    pair_stop(&p);
}

/* A disk that holds snapshots, made by QEMU itself */
static char *add_disk(QTestState *qts)
{
    char *path = NULL;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-add', 'arguments':"
                             " { 'driver': 'file', 'node-name': 'file',"
                             " 'filename': %s } }", path);
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-create',"
                             " 'arguments': { 'job-id': 'create', 'options':"
                             " { 'driver': 'qcow2', 'file': 'file',"
                             " 'size': 1048576 } } }");
    for (bool done = false; !done;) {
        QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-jobs' }");
        QDict *job = qobject_to(QDict,
                                qlist_peek(qdict_get_qlist(rsp, "return")));

        done = !strcmp(qdict_get_str(job, "status"), "concluded");
        g_assert_false(qdict_haskey(job, "error"));
        qobject_unref(rsp);
        g_usleep(5000);
    }
    qtest_qmp_assert_success(qts, "{ 'execute': 'job-dismiss', 'arguments':"
                             " { 'id': 'create' } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-add', 'arguments':"
                             " { 'driver': 'qcow2', 'node-name': 'disk',"
                             " 'file': 'file' } }");
    return path;
}

static void assert_hmp(QTestState *qts, const char *cmd)
{
    g_autofree char *said = qtest_hmp(qts, "%s", cmd);

    g_assert_cmpstr(said, ==, "");
}

static void test_snapshot(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=all");
    g_autofree char *set = NULL, *now = NULL, *fresh = NULL, *disk = NULL;
    unsigned nr;

    disk = add_disk(m.qts);
    fresh = host_attributes(m.qts, 0, RAM_SIZE);
    handshake(&d, 2);
    set_attributes(&d);
    set = host_attributes(m.qts, 0, RAM_SIZE);
    nr = query_ledger(m.qts);
    assert_hmp(m.qts, "savevm one");
    now = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(now, ==, set);
    g_assert_true(host_is_filled(m.qts, DATA, MiB, 0xaa));
    g_assert_true(is_running(m.qts));

    /* The guest does something else, and is taken back */
    handshake(&d, 1);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, MiB);
    ask_ok(&d, MEMCTL_MPROTECT_NONE, BALLAST, MiB);
    assert_hmp(m.qts, "loadvm one");
    g_free(now);
    now = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(now, ==, set);
    g_assert_cmpuint(query_ledger(m.qts), ==, nr);
    g_assert_true(host_is_filled(m.qts, DATA, MiB, 0xaa));
    assert_info_works(&d, 1);
    g_assert_cmpuint(query_number(m.qts, "guard-hits"), ==, 0);
    assert_hmp(m.qts, "loadvm one");
    handshake(&d, 1);
    g_free(now);
    now = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(now, ==, fresh);
    device_stop(&m, &d);
    unlink(disk);
}

/* Streams that no QEMU has sent */

/* Where the device's state is, from its first field on */
enum {
    STATE           = 0,
    ANSWER          = 4,
    NR_BUFFERS      = 16,
    NR_ATTRIBUTES   = 20,
    BUFFERS         = 24,           /* 3 */
    ATTRIBUTES      = BUFFERS + 3 * 8,
    /* In an attribute */
    BLOCK           = 0,
    BLOCK_SIZE      = 256,
    OFFSET          = BLOCK_SIZE,
    LENGTH          = OFFSET + 8,
    CODE            = LENGTH + 8 + 8,
    ATTRIBUTE_SIZE  = CODE + 1,
};

typedef struct Stream {
    char *path;
    uint8_t *bytes;
    size_t size;
    uint8_t *device;                /* in bytes */
    unsigned nr_attributes;
    uint64_t bar;
} Stream;

static Stream stream_new(void)
{
    static const char name[] = "/pvmemctl";
    const uint32_t fields[] = {
        cpu_to_be32(2), cpu_to_be32(MEMCTL_ANSWER_ACK)
    };
    g_autofree char *uri = NULL;
    Stream s = { 0 };
    uint8_t *section;
    Machine m;
    Device d;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &s.path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    uri = g_strdup_printf("file:%s", s.path);
    d = device_start(&m, ",allow=all");
    handshake(&d, 3);
    set_attributes(&d);
    s.bar = d.bar;
    s.nr_attributes = query_ledger(m.qts);
    qtest_qmp_assert_success(m.qts, "{ 'execute': 'migrate', 'arguments':"
                             " { 'uri': %s } }", uri);
    wait_status(m.qts, "completed");
    device_stop(&m, &d);

    g_assert_true(g_file_get_contents(s.path, (char **)&s.bytes, &s.size,
                                      NULL));
    section = memmem(s.bytes, s.size, name, strlen(name));
    g_assert_nonnull(section);
    s.device = memmem(section, s.bytes + s.size - section, fields,
                      sizeof(fields));
    g_assert_nonnull(s.device);
    g_assert_cmpuint(ldl_be_p(s.device + NR_ATTRIBUTES), ==, s.nr_attributes);
    g_assert_cmphex(ldq_be_p(s.device + BUFFERS), ==, BUFFER(0));
    g_assert_cmphex(ldq_be_p(s.device + ATTRIBUTES + OFFSET), ==, DATA);
    return s;
}

static void stream_free(Stream *s)
{
    unlink(s->path);
    g_free(s->path);
    g_free(s->bytes);
}

/* The first bytes of a stream arrive; taken or not, QEMU lives */
static bool stream_load(const Stream *s, size_t size, Device *d)
{
    g_autofree char *uri = g_strdup_printf("file:%s", s->path), *status = NULL;

    g_assert_true(g_file_set_contents(s->path, (char *)s->bytes, size, NULL));
    *d = (Device) {
        .qts = qemu_start("q35", "-device pvmemctl,addr=04.0,allow=all"
                          " -incoming defer 2>/dev/null"),
        .bar = s->bar,
    };
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'migrate-incoming',"
                             " 'arguments': { 'uri': %s,"
                             " 'exit-on-error': false } }", uri);
    do {
        g_free(status);
        status = migration_status(d->qts);
        g_usleep(5000);
    } while (!is_over(status));
    g_assert_cmpuint(query_ledger(d->qts), <=, s->nr_attributes);
    return !strcmp(status, "completed");
}

static void put_field(Stream *s, unsigned at, unsigned size, uint64_t value)
{
    uint8_t *to = s->device + at;

    switch (size) {
    case 1:
        *to = value;
        break;
    case 4:
        stl_be_p(to, value);
        break;
    case 8:
        stq_be_p(to, value);
        break;
    default:
        memset(to, value, size);
    }
}

/* All that was brought along can be given back */
static void assert_given_back(Device *d, const char *fresh)
{
    g_autofree char *now = NULL;

    handshake(d, 1);
    assert_info_works(d, 0);
    g_assert_cmpuint(query_ledger(d->qts), ==, 0);
    now = host_attributes(d->qts, 0, RAM_SIZE);
    g_assert_cmpstr(now, ==, fresh);
}

static char *fresh_attributes(void)
{
    QTestState *qts = qemu_start("q35", "");
    char *fresh = host_attributes(qts, 0, RAM_SIZE);

    qtest_quit(qts);
    return fresh;
}

static void test_nonsense(void)
{
    static const struct {
        unsigned at, size;
        uint64_t value;
    } nonsense[] = {
        { STATE, 4, 3 },
        { ANSWER, 4, 0 },
        { NR_BUFFERS, 4, 2 },
        { NR_BUFFERS, 4, 4097 },
        { NR_BUFFERS, 4, UINT32_MAX },
        { NR_ATTRIBUTES, 4, 1 },
        { NR_ATTRIBUTES, 4, 16385 },
        { NR_ATTRIBUTES, 4, INT32_MAX },
        { NR_ATTRIBUTES, 4, UINT32_MAX },
        { ATTRIBUTES + BLOCK, 1, 0 },
        { ATTRIBUTES + BLOCK, 1, 'x' },
        { ATTRIBUTES + BLOCK, BLOCK_SIZE, 'x' },
        { ATTRIBUTES + OFFSET, 8, RAM_SIZE },
        { ATTRIBUTES + OFFSET, 8, -PAGE },
        { ATTRIBUTES + LENGTH, 8, 0 },
        { ATTRIBUTES + LENGTH, 8, RAM_SIZE },
        { ATTRIBUTES + LENGTH, 8, -PAGE },
    };
    Stream s = stream_new();
    size_t length = s.bytes + s.size - s.device;
    g_autofree void *old = g_memdup2(s.device, length);
    Device d;

    for (unsigned i = 0; i < ARRAY_SIZE(nonsense); i++) {
        put_field(&s, nonsense[i].at, nonsense[i].size, nonsense[i].value);
        g_test_message("%" PRIu64 " at %u", nonsense[i].value, nonsense[i].at);
        g_assert_false(stream_load(&s, s.size, &d));
        qtest_quit(d.qts);
        memcpy(s.device, old, length);
    }
    g_assert_true(stream_load(&s, s.size, &d));
    g_assert_cmpuint(query_ledger(d.qts), ==, s.nr_attributes);
    qtest_quit(d.qts);
    stream_free(&s);
}

static void test_truncated(void)
{
    Stream s = stream_new();
    size_t device = s.device - s.bytes;
    const size_t ends[] = {
        device - 1, device + ANSWER + 1, device + NR_ATTRIBUTES,
        device + BUFFERS + 9, device + ATTRIBUTES,
        device + ATTRIBUTES + ATTRIBUTE_SIZE + 100,
        device + ATTRIBUTES + ATTRIBUTE_SIZE * s.nr_attributes,
    };
    Device d;

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        g_assert_false(stream_load(&s, ends[i], &d));
        qtest_quit(d.qts);
    }
    stream_free(&s);
}

/* What a guest could have asked for, or another host have allowed */
static void test_odd(void)
{
    g_autofree char *fresh = fresh_attributes();
    Stream s = stream_new();
    Device d;
    QDict *info, *device;

    put_field(&s, BUFFERS, 8, -16);                     /* wraps */
    put_field(&s, BUFFERS + 8, 8, s.bar);               /* no RAM */
    put_field(&s, BUFFERS + 16, 8, 4 * GiB - PAGE);     /* ROM */
    /* The first two are protections: now they overlap */
    put_field(&s, ATTRIBUTES + ATTRIBUTE_SIZE + OFFSET, 8, DATA + 2 * PAGE);
    put_field(&s, ATTRIBUTES + 2 * ATTRIBUTE_SIZE + CODE, 1, 255);
    put_field(&s, ATTRIBUTES + 3 * ATTRIBUTE_SIZE + CODE, 1, MEMCTL_DONTNEED);
    g_assert_true(stream_load(&s, s.size, &d));
    g_assert_cmpuint(query_ledger(d.qts), ==, s.nr_attributes - 2);
    g_assert_true(host_is_filled(d.qts, DATA, MiB, 0xaa));
    for (int i = 0; i < 3; i++) {
        qtest_writel(d.qts, d.bar + MEMCTL_REG_COMMAND, CONNECTION(i));
    }
    info = query_pvmemctl(d.qts);
    device = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "devices")));
    g_assert_cmpuint(qdict_get_int(device, "ignored"), ==, 3);
    qobject_unref(info);
    assert_given_back(&d, fresh);
    qtest_quit(d.qts);
    stream_free(&s);
}

static void test_random(void)
{
    g_autofree char *fresh = fresh_attributes();
    Stream s = stream_new();
    unsigned length = ATTRIBUTES + s.nr_attributes * ATTRIBUTE_SIZE;
    g_autofree void *old = g_memdup2(s.device, length);
    Device d;

    for (int i = 0; i < 16; i++) {
        for (int nr = g_test_rand_int_range(1, 5); nr; nr--) {
            s.device[g_test_rand_int_range(0, length)] =
                g_test_rand_int_range(0, 256);
        }
        if (stream_load(&s, s.size, &d)) {
            assert_given_back(&d, fresh);
        }
        qtest_quit(d.qts);
        memcpy(s.device, old, length);
    }
    stream_free(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/pvmemctl/migration/ledger", test_ledger);
    qtest_add_func("/pvmemctl/migration/protocol-1.0", test_1_0);
    qtest_add_func("/pvmemctl/migration/states", test_states);
    qtest_add_func("/pvmemctl/migration/precopy", test_precopy);
    qtest_add_func("/pvmemctl/migration/cancelled", test_cancelled);
    qtest_add_func("/pvmemctl/migration/not-allowed", test_not_allowed);
    qtest_add_func("/pvmemctl/migration/too-many", test_too_many);
    qtest_add_func("/pvmemctl/migration/too-much-locked",
                   test_too_much_locked);
    qtest_add_func("/pvmemctl/migration/other-defaults", test_other_defaults);
    qtest_add_func("/pvmemctl/migration/snapshot", test_snapshot);
    qtest_add_func("/pvmemctl/migration/nonsense", test_nonsense);
    qtest_add_func("/pvmemctl/migration/truncated", test_truncated);
    qtest_add_func("/pvmemctl/migration/odd", test_odd);
    qtest_add_func("/pvmemctl/migration/random", test_random);
    return g_test_run();
}
