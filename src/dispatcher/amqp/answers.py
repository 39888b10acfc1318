"""Which method answers which (AMQP 0-9-1, section 1): what a channel may expect after a call."""

from __future__ import annotations

from .methods import (
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicQos,
    BasicQosOk,
    ChannelOpen,
    ChannelOpenOk,
    ConfirmSelect,
    ConfirmSelectOk,
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
    Method,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
)

__all__ = ["ANSWERS"]

ANSWERS: dict[type[Method], tuple[type[Method], ...]] = {
    BasicCancel: (BasicCancelOk,),
    BasicConsume: (BasicConsumeOk,),
    BasicGet: (BasicGetOk, BasicGetEmpty),
    BasicQos: (BasicQosOk,),
    ChannelOpen: (ChannelOpenOk,),
    ConfirmSelect: (ConfirmSelectOk,),
    ExchangeBind: (ExchangeBindOk,),
    ExchangeDeclare: (ExchangeDeclareOk,),
    ExchangeDelete: (ExchangeDeleteOk,),
    ExchangeUnbind: (ExchangeUnbindOk,),
    QueueBind: (QueueBindOk,),
    QueueDeclare: (QueueDeclareOk,),
    QueueDelete: (QueueDeleteOk,),
    QueuePurge: (QueuePurgeOk,),
    QueueUnbind: (QueueUnbindOk,),
}
