/* SPDX-License-Identifier: Apache-2.0 */
/*
 * binding.h: the plans that give a controller to vfio-pci and back.
 *
 * Responsible for: which steps, in which order, and the unit that takes them at
 * boot. Must not know who asked, nor judge whether it may be done.
 */
#ifndef TOOLS_BINDING_H
#define TOOLS_BINDING_H

#include "controllers.h"
#include "steps.h"

/**
 * plan_bind() - what makes @c vfio-pci's
 * @load: the module has to be loaded
 * @unit: text of the unit that does this at each boot, or NULL
 */
void plan_bind(const struct controller *c, bool load, const char *unit, struct plan *plan);

/** What makes @c the nvme driver's again, and forgets about it. */
void plan_unbind(const struct machine *m, const struct controller *c, struct plan *plan);

/** What puts @was back as it was found, after @tried was done in part. */
void plan_restore(const struct machine *m, const struct controller *was, const struct plan *tried,
                  struct plan *plan);

/**
 * unit_text() - a unit that binds the drive with this serial at each boot
 * @despite_data: as the user said it now
 *
 * By serial: addresses may be given anew when hardware is added, and the one of this drive may then
 * be that of the drive with the root file system. And by this program, so that each boot makes the
 * same checks. Return: 0, or a negative errno with a message.
 */
int unit_text(const struct machine *m, const struct controller *c, bool despite_data,
              char text[1024], struct tutti_error *err);

#endif
