/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* pmempool_btt COPY: what libpmempool finds in a BTT without a pool around it, at byte 4096 of a file that nobody needs any more.
 * PMDK 1.12 can only look when it may repair: asked to look and no more, it reads through a null pointer. */
#include <libpmempool.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: pmempool_btt COPY\n");
        return 2;
    }
    struct pmempool_check_args args = {
        .path = argv[1],
        .pool_type = PMEMPOOL_POOL_TYPE_BTT,
        .flags = PMEMPOOL_CHECK_FORMAT_STR | PMEMPOOL_CHECK_VERBOSE | PMEMPOOL_CHECK_REPAIR | PMEMPOOL_CHECK_ALWAYS_YES,
    };
    PMEMpoolcheck *check = pmempool_check_init(&args, sizeof(args));
    if (check == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], pmempool_errormsg());
        return 1;
    }
    for (struct pmempool_check_status *status; (status = pmempool_check(check)) != NULL;)
        puts(status->str.msg);
    return pmempool_check_end(check) != PMEMPOOL_CHECK_RESULT_CONSISTENT;
}
