/* SPDX-License-Identifier: Apache-2.0 */
/* thread.h: threads of ours take no signals: those are the serving engine's. */
#ifndef TUTTI_BASE_THREAD_H
#define TUTTI_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

/** Start one. Return: 0 or a negative errno. */
static inline int tutti_thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -rc;
}

#endif
